"""The steps that bring a registry's tables from one version of Tunewise to the next."""
