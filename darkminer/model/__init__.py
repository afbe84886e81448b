"""What is done to a network: layers found, adapted and put back, sampled, and kept in memory."""
