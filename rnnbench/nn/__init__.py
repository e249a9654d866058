"""Networks: cells, layers and head, optimisers, equal budgets."""
