"""What is made of the audit's images before samples are compared with them: reconstructions and stored features."""
