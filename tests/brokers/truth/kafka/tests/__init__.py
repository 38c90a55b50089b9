"""Unit tests of what the Kafka truth tests judge by: python -m unittest discover -s truth/kafka/tests -t ."""
