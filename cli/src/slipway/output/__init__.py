"""What is written for a person or a program: tables, JSON, bars, sentences."""
