"""The engine: K trials of equal shapes train as one stack."""
