"""What a trained run does, looked at from outside: numbers first, pictures made from them."""
