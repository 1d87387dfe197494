"""Tables, figures and the report, from scores."""
