"""mien: from recordings of people and their annotations to emotion-recognition models that can be believed."""
