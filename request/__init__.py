"""The request model: fields, their values, and errors as data."""
