"""The cAdvisor metrics of CRI: what there is, and what the machine says."""
