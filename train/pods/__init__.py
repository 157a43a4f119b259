"""Ahead-of-time compilation of training steps for TPU pods, without TPUs."""
