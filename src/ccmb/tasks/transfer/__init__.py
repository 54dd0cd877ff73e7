"""Transfer: how well models find images by texts of languages that they were not trained on."""
