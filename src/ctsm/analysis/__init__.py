"""What a model feels, as maps, figures and pages."""
