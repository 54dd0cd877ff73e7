"""What everything stands on: errors, files, progress, texts, configuration, the device."""
