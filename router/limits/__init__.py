"""How much one owner may do: limits, and what counts against them."""
