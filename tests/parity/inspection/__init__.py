"""Head roles, patches and shares of a logit against TransformerLens."""
