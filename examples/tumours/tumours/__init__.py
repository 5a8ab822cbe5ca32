"""A workload of one's own: hospitals learn together to tell benign tumours from malignant ones."""
