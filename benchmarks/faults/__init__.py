"""Scripted faults: real processes train, something breaks, and every rank must go on correctly or say what broke."""
