"""Networks: no losses, no optimisers."""
