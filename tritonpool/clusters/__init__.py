"""What the clusters of a trained model are: which atoms they hold, in numbers and in pictures."""
