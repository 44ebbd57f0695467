"""From a model file and an image to a prediction on the original grid."""
