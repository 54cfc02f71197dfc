"""What shows winnow at work: a real Apache Kafka, a stream with known truth, a simulated reviewer, the run itself."""
