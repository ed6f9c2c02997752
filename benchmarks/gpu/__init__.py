"""What `benchmarks.bench_gpu` measures: our messages on a GPU, and what others do with the same buckets."""
