"""From numbers to roles: compares a HeadProfile with cut-offs. No torch."""
