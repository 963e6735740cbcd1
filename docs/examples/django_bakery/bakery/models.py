"""The orders."""

from django.db import models


class Order(models.Model):
    item = models.CharField(max_length=80)
    state = models.CharField(max_length=20, default="ordered")

    def __str__(self) -> str:
        return f"{self.item}, {self.state}"
