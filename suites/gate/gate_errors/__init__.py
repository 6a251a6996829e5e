"""What ``error_rates.py`` reads, plants, counts and prints."""
