"""What a person looks at: tables, the Markdown ledger, the page."""
