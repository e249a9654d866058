"""What the operating system gives: files, signals, limits on memory and cores, text for terminals."""
