"""The `kubernetes` adapter: one Job per attempt. The extra `reprieve[kubernetes]` is needed where it is used only."""
