"""Long-running operations: their record, their execution, and the store of what they make."""
