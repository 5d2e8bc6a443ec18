"""What only the studies need: tables, claims, figures, running notebooks, full-scale training."""
