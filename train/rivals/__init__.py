"""What a user would take without any network: TF-IDF, image features and logistic regression, by scikit-learn."""
