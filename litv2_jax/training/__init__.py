"""The loop. Knows the Task interface, never a task."""
