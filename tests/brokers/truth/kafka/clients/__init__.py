"""Python clients as child processes; those in Java and Go are in tests/brokers/clients/."""
