"""Run the scripted faults: python -m benchmarks.faults [--cases WORD ...] [--list]

A case is chosen by any of the words in its name. Link cases need root, for network namespaces.
"""

import argparse
import sys

from benchmarks.faults.bar import chosen, faults_bar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", default=[])
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        for case in chosen(arguments.cases):
            print(f"{case.expected:9} {case.name}")
        return
    counts = faults_bar(arguments.cases)
    print(counts)
    sys.exit(0 if counts["failed"] == 0 and counts["passed"] else 1)


if __name__ == "__main__":
    main()
