"""Every adaptation a company has: named, versioned, checked, promoted and rolled back."""
