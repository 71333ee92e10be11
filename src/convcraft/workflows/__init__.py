"""One public function per command; joins the rooms."""
