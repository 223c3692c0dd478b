"""One module for each stage; each has ``run(task, progress)`` and says what it answers."""
