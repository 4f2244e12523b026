"""The operations between the two [CLS] tokens and the logits: `reference` is their definition."""
