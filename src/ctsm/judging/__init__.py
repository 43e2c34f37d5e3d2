"""Human A/B studies: design, store, web page, agreement, report."""
