"""CCMB: Chinese image-text work in one package."""
