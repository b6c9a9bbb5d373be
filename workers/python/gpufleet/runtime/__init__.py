"""The process that a worker starts: it speaks ``schemas/handler.md`` over the socket that it inherits, and runs tasks."""
