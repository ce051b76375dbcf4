"""Training of networks that ship with the domains: resumable runs within a budget."""
