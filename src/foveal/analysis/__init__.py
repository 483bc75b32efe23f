"""What the loss sees: numbers of a trained run on a data set, and pictures made from them."""
