"""Networks in readable files, one paper each; timm's by name; weights from safetensors."""
