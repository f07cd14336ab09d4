"""What the application's database says of its users. It follows the registry."""
