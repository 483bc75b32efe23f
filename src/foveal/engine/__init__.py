"""What is done with the network: training, evaluation, prediction, inspection."""
