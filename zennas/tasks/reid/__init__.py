"""Re-identification of people: softmax, triplets mined within the batch, centres; judged by ranked lists."""
