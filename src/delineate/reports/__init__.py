"""Tables, figures and offline HTML pages."""
