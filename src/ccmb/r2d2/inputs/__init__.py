"""The inputs of the processor: images, texts and options."""
