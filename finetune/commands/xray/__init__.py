"""``finetune xray``: what each layer of a model predicts on a text, before and after fine-tuning, as one HTML file."""
