"""Truth tests for Kafka: real brokers, real clients, every record."""
