"""The pairs of a sample and its closest training image that a report shows: `chosen` says which, `pictures` reads their images,
`thumbnails` has them in the page and, as far as that would grow too large, in a folder beside it."""
